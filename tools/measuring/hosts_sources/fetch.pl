# fetch.pl COUNT URL...: HTTP::Tiny, http:// alone.
use strict;
use warnings;
use HTTP::Tiny;

my ($count, @urls) = @ARGV;
for my $i (0 .. $count - 1) {
    my $answer = HTTP::Tiny->new(timeout => 20)->get($urls[$i % @urls]);
    my $text = $answer->{content};
    $text =~ s/\s+$//;
    print $answer->{success} ? "got $text\n" : "failed $text\n";
}
