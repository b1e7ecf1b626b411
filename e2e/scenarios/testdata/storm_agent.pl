# An agent of the scenario `storm`: worker-N of AGENTS sends if N is in the first half, to RECEIVERS of the other half, which
# receive. (Not to all: the kernel keeps 1024 neighbours for all network namespaces of a machine together.) It keeps one
# connection to the agent socket (docs/socket-protocol.md) and one to the recorder, which is told of every operation before
# the call and after it (the lines: messages/history.go). RECORDER, AGENTS, PAUSE_MS, POD_UID come from the pod.
use strict;
use warnings;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

use constant {
    RECORD_LIMIT => 5,     # seconds until a recorder that does not answer is connected to anew; no line comes later
    SEND_LIMIT   => 0.5,   # then the sidecar answers: who is cut off from one must not keep the others waiting
    GRACE        => 2,     # later nobody does any more
    WAIT         => 3,     # of recv
    LEASE        => 10,
    ACK_LIMIT    => 1,     # the sidecar waits for 10; who waits so long reads nothing meanwhile
    RECEIVERS    => 4,
    MOST_UNKNOWN => 100,   # ids whose outcome is to be found out; with more, nothing new is sent
    AGAIN_EVERY  => 40,    # sent once more on purpose: accepted once
    NACK_EVERY   => 37,    # given back the first time
    POLL         => 0.05,
    READ_BYTES   => 1 << 16,
};
use constant TCP_USER_TIMEOUT => 18;    # Linux
use constant KEPT => 1 << 20;    # of what a connection has said and nobody has read; a line is shorter

$SIG{TERM} = sub { exit 0 };
$SIG{PIPE} = 'IGNORE';

# The wall clock with a fraction, which Debian's perl-base has no module for: clock_gettime(CLOCK_REALTIME) on x86-64.
sub now {
    my $time = pack 'qq', 0, 0;
    syscall(228, 0, $time) == 0 or die "clock_gettime: $!";
    my ($seconds, $nanoseconds) = unpack 'qq', $time;
    return $seconds + 1e-9 * $nanoseconds;
}
sub pause { select undef, undef, undef, $_[0] }

my ($mine) = $ENV{CFN_AGENT_ID} =~ /^worker-(\d+)$/ or die "CFN_AGENT_ID: $ENV{CFN_AGENT_ID}";
my $pod = "$ENV{CFN_POD_NAME}/" . substr $ENV{POD_UID}, 0, 8;    # a pod's name may come again
my ($record, $recorded, $instance);
my ($socket, $said, $rid) = (undef, '', 0);

# A line from a connection; undef: none within the time, or the connection has ended.
sub line_of {
    my ($from, $buffer, $deadline) = @_;
    my $end;
    while (($end = index $$buffer, "\n") < 0) {
        my $ready = '';
        vec($ready, fileno $from, 1) = 1;
        my $left = $deadline - now();
        return if $left <= 0 || length $$buffer > KEPT;
        next if (select $ready, undef, undef, $left) <= 0;
        sysread($from, $$buffer, READ_BYTES, length $$buffer) or return;
    }
    return substr $$buffer, 0, $end + 1, '';
}

# ---- the recorder. A connection made anew is a new instance: nobody knows what came of the old one's last lines.

sub connect_recorder {
    close $record if $record;
    my $number = sprintf '%08x', rand 2**32;
    $instance = "$ENV{CFN_POD_NAME}.$number";
    $recorded = '';
    pause(POLL) until $record = IO::Socket::INET->new(PeerAddr => $ENV{RECORDER}, PeerPort => 7000, Timeout => RECORD_LIMIT);
    setsockopt $record, IPPROTO_TCP, TCP_USER_TIMEOUT, pack 'I', 1000 * RECORD_LIMIT or die "TCP_USER_TIMEOUT: $!";
    setsockopt $record, IPPROTO_TCP, TCP_NODELAY, pack 'I', 1 or die "TCP_NODELAY: $!";    # two lines before an answer: 40 ms
}

sub tell_it {
    my $line = sprintf "%s %s %s %.6f %s\n", $ENV{CFN_AGENT_ID}, $pod, $instance, now(), join ' ', @_;
    my $at = 0;
    while ($at < length $line) {
        my $written = syswrite $record, $line, length($line) - $at, $at;
        return 0 unless $written;
        $at += $written;
    }
    return 1;
}

# Tells, and waits until it is recorded: go, stop, or '' when nobody knows.
sub ask { ask_all([@_]) }

# The same of several lines, in the time of one; the answer to the last.
sub ask_all {
    my $answer;
    for (@_) { tell_it(@$_) or return '' }
    for (@_) { $answer = line_of($record, \$recorded, now() + RECORD_LIMIT) // return '' }
    chomp $answer;
    return $answer;
}

# ---- the agent socket

# One request, its answer as text; '' if there was none. Answers to calls that were given up are passed over.
sub call {
    my ($limit, @fields) = @_;
    my $deadline = now() + $limit;
    until ($socket) {
        return '' if now() > $deadline;
        $socket = IO::Socket::UNIX->new($ENV{CFN_SOCKET}) or pause(POLL);    # it is being restarted
        $said = '';
    }
    my $text = sprintf '{"rid":%d,%s}' . "\n", ++$rid, join ',', @fields;
    if ((syswrite($socket, $text) // 0) == length $text) {
        while (defined(my $answer = line_of($socket, \$said, $deadline))) {
            return $answer if $answer =~ /"rid":$rid\b/;
        }
        return '' if now() >= $deadline;
    }
    close $socket;
    undef $socket;
    return '';
}

sub code_of { $_[0] eq '' ? 'no-answer' : $_[0] =~ /"code":"(\w+)"/ ? $1 : 'senseless' }

# As messages.Expected.
sub body {
    my ($id, $n) = @_;
    my $length = $n % 500 == 0 ? 30_000 : $n % 50 == 0 ? 4000 : 100 + $n % 200;
    my $body = $id;
    $body .= ".$body" while length $body < $length;
    return substr $body, 0, $length;
}

# ---- what it does

# accepted, refused, unknown; stop; '' when the recorder is gone.
sub send_once {
    my ($id, $to, $body) = @_;
    my $go = ask('B', $id, $to);
    if ($go ne 'go') {
        tell_it('F', $id, 'stopped') if $go eq 'stop';
        return $go;
    }
    my $answer = call(SEND_LIMIT + GRACE, '"op":"send"', qq("to":"$to"), qq("id":"$id"), qq("body":"$body"), '"timeoutMs":' . 1000 * SEND_LIMIT);
    if ($answer =~ /"ok":true/) {
        my ($survives, $duplicate) = ($answer =~ /"survives":"(\w+)"/, $answer =~ /"duplicate":(true|false)/);
        tell_it('A', $id, $survives, $duplicate);
        return 'accepted';
    }
    my $code = code_of($answer);
    if ($code =~ /^(full|unavailable|refused)$/) { tell_it('F', $id, $code); return 'refused'; }
    tell_it('U', $id, $code);
    return 'unknown';
}

sub sender {
    my $half = int($ENV{AGENTS} / 2);
    my ($n, @unknown) = (0);    # their ids, receivers, bodies: the same id again tells
    while (1) {
        my ($id, $to, $body, $again);
        if (@unknown && (@unknown > MOST_UNKNOWN || rand() < .2)) {
            ($id, $to, $body) = @{ shift @unknown };
        }
        else {
            $id = "$instance." . ++$n;
            $to = 'worker-' . ($half + (RECEIVERS * $mine + int rand RECEIVERS) % $half);
            $body = body($id, $n);
            $again = $n % AGAIN_EVERY == 0;
        }
        my $outcome = send_once($id, $to, $body);
        push @unknown, [$id, $to, $body] if $outcome eq 'unknown';
        $outcome = send_once($id, $to, $body) if $outcome eq 'accepted' && $again;
        if ($outcome eq 'stop') { sleep 1 while 1; }
        if ($outcome eq '') {
            connect_recorder();
            ($n, @unknown) = (0);
        }
        pause($ENV{PAUSE_MS} / 1000);
    }
}

# recorded: that it is about to be acked is.
sub ack {
    my ($id, $attempt, $recorded) = @_;
    if (!$recorded && ask('C', $id, $attempt) eq '') {
        connect_recorder();    # and it comes again
        return;
    }
    my $began = sprintf '%.6f', now();
    my $answer = call(ACK_LIMIT, '"op":"ack"', qq("messageId":"$id"), qq("attempt":$attempt));
    if ($answer =~ /"ok":true/) { tell_it('K', $id, $attempt, $began); }
    else { tell_it('X', $id, $attempt, code_of($answer)); }
}

sub receiver {
    while (1) {
        my $began = sprintf '%.6f', now();
        my $got = call(WAIT + GRACE, '"op":"recv"', '"waitMs":' . 1000 * WAIT, '"leaseMs":' . 1000 * LEASE);
        if ($got !~ /"ok":true/) {
            pause(POLL) if $got !~ /"code":"not_found"/;
            next;
        }
        my ($id, $attempt, $body) = ($got =~ /"messageId":"([^"]+)"/, $got =~ /"attempt":(\d+)/, $got =~ /"body":"([^"]*)"/);
        defined $body or die "not a message: $got";
        my ($n) = $id =~ /(\d+)$/;
        my $nack = $attempt == 1 && $n % NACK_EVERY == 0;
        my @lines = [ 'R', $id, $attempt, $began, $body eq '' ? '-' : $body ];
        my $first = $attempt == 1 && !$nack;    # nothing but its ack comes next
        push @lines, [ 'C', $id, $attempt ] if $first;
        if (ask_all(@lines) eq '') {
            connect_recorder();    # and it comes again
            next;
        }
        # The attempt before this one is over: its ack must be refused.
        ack($id, $attempt - 1) if $attempt > 1;
        if ($nack) {
            my $answer = call(GRACE, '"op":"nack"', qq("messageId":"$id"), qq("attempt":$attempt));
            tell_it('N', $id, $attempt, $answer =~ /"ok":true/ ? 0 : code_of($answer));
            next;
        }
        ack($id, $attempt, $first);
    }
}

srand;
connect_recorder();
$mine < int($ENV{AGENTS} / 2) ? sender() : receiver();
