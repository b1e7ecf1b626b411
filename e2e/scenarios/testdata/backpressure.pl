# What the scenario `backpressure` does inside a pod, over the agent's socket (docs/socket-protocol.md), one call after the
# other on each connection. What it saw goes to standard output as lines of KEY=VALUE.
#
#   send TO SENDERS EACH TIMEOUT_MS   SENDERS processes send EACH messages to TO; one line for each process
#   ping TO COUNT                     sends, timed one by one: p50, p99, max in microseconds
#   read COUNT MICROSECONDS           reads and acks COUNT messages, with a pause after each; gives up after 20 s without any
#   fill                              how many messages are in the inbox
use strict;
use warnings;
use IO::Socket::UNIX;

# The monotonic clock in seconds; Debian's perl-base has no Time::HiRes. clock_gettime(CLOCK_MONOTONIC) on x86-64.
sub now {
    my $time = pack 'qq', 0, 0;
    syscall(228, 1, $time) == 0 or die "clock_gettime: $!";
    my ($seconds, $nanoseconds) = unpack 'qq', $time;
    return $seconds + 1e-9 * $nanoseconds;
}

my ($what, @rest) = @ARGV;
my $rid = 0;
my ($socket, $buffer);

sub connected {
    $socket = IO::Socket::UNIX->new($ENV{CFN_SOCKET} // die "no CFN_SOCKET") or die "socket: $!";
    $buffer = '';
}

# One request, its answer as text.
sub call {
    my $text = sprintf '{"rid":%d,%s}' . "\n", ++$rid, join ',', @_;
    syswrite($socket, $text) == length $text or die "socket: $!";
    my $end;
    while (($end = index $buffer, "\n") < 0) {
        sysread($socket, $buffer, 1 << 20, length $buffer) or die "the socket broke";
    }
    my $answer = substr $buffer, 0, $end + 1, '';
    $answer =~ /"rid":$rid\b/ or die "an answer to something else: $answer";
    return $answer;
}

sub outcome { $_[0] =~ /"ok":true/ ? 'accepted' : $_[0] =~ /"code":"(\w+)"/ ? $1 : die "no outcome: $_[0]" }

sub send_to {
    my ($to, $id, $timeout) = @_;
    return outcome(call('"op":"send"', qq("to":"$to"), qq("id":"$id"), '"body":"' . 'x' x 256 . '"', qq("timeoutMs":$timeout)));
}

sub sender {
    my ($number, $to, $each, $timeout) = @_;
    connected();
    my (%count, $longest);
    my $began = now();
    for my $n (1 .. $each) {
        my $at = now();
        ++$count{ send_to($to, "$ENV{CFN_AGENT_ID}.$number-$^T.$n", $timeout) };
        my $took = now() - $at;
        $longest = $took if !defined $longest || $took > $longest;
    }
    printf "sender=%d took=%.3f longest=%.3f%s\n", $number, now() - $began, $longest, join '', map { " $_=$count{$_}" } sort keys %count;
}

sub senders {
    my ($to, $senders, $each, $timeout) = @_;
    my @children;
    for my $number (1 .. $senders) {
        my $pid = fork // die "fork: $!";
        if (!$pid) { sender($number, $to, $each, $timeout); exit 0; }
        push @children, $pid;
    }
    for my $pid (@children) { waitpid $pid, 0; $? == 0 or die "a sender ended with $?"; }
}

sub ping {
    my ($to, $count) = @_;
    connected();
    my @took;
    for my $n (1 .. $count) {
        my $at = now();
        my $got = send_to($to, "ping.$$.$n", 30_000);
        $got eq 'accepted' or die "ping: $got";
        push @took, now() - $at;
    }
    @took = sort { $a <=> $b } @took;
    printf "p50=%d p99=%d max=%d\n", map { 1e6 * $took[$_] } int($#took / 2), int($#took * .99), $#took;
}

sub fill { (call('"op":"stats"') =~ /"inbox":(\d+)/)[0] }

# Reads one: its id; undef when none came within the wait.
sub take {
    my ($wait) = @_;
    my $got = call('"op":"recv"', qq("waitMs":$wait));
    return if $got =~ /"code":"not_found"/;
    my ($id, $attempt) = ($got =~ /"messageId":"([^"]+)"/, $got =~ /"attempt":(\d+)/);
    defined $attempt or die "no message: $got";
    my $acked = call('"op":"ack"', qq("messageId":"$id"), qq("attempt":$attempt));
    outcome($acked) eq 'accepted' or die "ack: $acked";
    return $id;
}

sub reader {
    my ($count, $pause) = @_;
    connected();
    my (%seen, %last);
    my ($twice, $inversions, $fullest) = (0, 0, 0);
    while (keys %seen < $count) {
        my $fill = fill();
        $fullest = $fill if $fill > $fullest;
        my $id = take(20_000) // last;
        my ($from, $n) = $id =~ /^(.*)\.(\d+)$/ or die "not one of ours: $id";
        ++$twice if $seen{$id}++;
        ++$inversions if defined $last{$from} && $n < $last{$from};
        $last{$from} = $n;
        select undef, undef, undef, 1e-6 * $pause;
    }
    printf "read=%d twice=%d inversions=%d fullest=%d\n", scalar(keys %seen), $twice, $inversions, $fullest;
}

my %verbs = (
    send => \&senders,
    ping => \&ping,
    read => \&reader,
    fill => sub { connected(); print 'fill=', fill(), "\n" },
);
($verbs{$what // ''} // die "which of: @{[sort keys %verbs]}")->(@rest);
