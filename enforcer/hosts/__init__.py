"""Connections and datagrams of the program, judged by whom they reach: names, addresses and unix sockets."""
