# connections N: opens so many to the sidecar, and prints how many are served while all are open, how many were refused in
# words, and how many ended without any.
use strict; use warnings; use IO::Socket::UNIX;
my ($n) = @ARGV;
my @all = map { IO::Socket::UNIX->new(Peer => $ENV{CFN_SOCKET}) or die "connection $_: $!\n" } 1 .. $n;
my ($served, $refused, $silent) = (0, 0, 0);
$SIG{PIPE} = 'IGNORE'; # of those that were refused
alarm 60;
for my $connection (@all) {
	syswrite $connection, qq({"op":"hello","rid":1}\n);
	my $line = <$connection> // '';
	if ($line =~ /"ok":true/) { $served++ }
	elsif ($line =~ /"code":"full".*no more connections/) { $refused++ }
	else { $silent++ }
}
print "served=$served refused=$refused silent=$silent\n";
