"""`enforce --ask`: somebody is asked about denied calls while they wait."""
