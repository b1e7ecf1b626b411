# Collects the lines of the agents of the scenario `messages` in /record/lines, whole lines only. Where an agent has to
# know that its line is there before it goes on (B, R and C), it is answered: go, or, once /record/stop exists, stop.
use strict;
use warnings;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

$SIG{TERM} = sub { exit 0 };
$SIG{CHLD} = 'IGNORE';
open my $lines, '>>', '/record/lines' or die "/record/lines: $!";
my $server = IO::Socket::INET->new(LocalPort => 7000, Listen => 128, ReuseAddr => 1) or die "port 7000: $!";
while (1) {
    my $agent = $server->accept or next;
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    if ($pid) { close $agent; next; }
    close $server;
    setsockopt $agent, IPPROTO_TCP, TCP_NODELAY, pack 'I', 1 or die "TCP_NODELAY: $!";    # two answers to two lines: 40 ms
    while (my $line = <$agent>) {
        last unless $line =~ /\n\z/;    # the agent was killed in the middle of it
        my $written = syswrite $lines, $line;
        die "/record/lines: $!" unless defined $written && $written == length $line;
        syswrite $agent, -e '/record/stop' ? "stop\n" : "go\n" if $line =~ /^\S+ \S+ \S+ \S+ [BRC] /;
    }
    exit 0;
}
