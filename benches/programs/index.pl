# An index of words by line, sorted; each line also cut up and joined again.
use strict;
my (%index, %seen, $bytes);
while (my $line = <STDIN>) {
    chomp $line;
    my @words = split ' ', $line;
    push @{ $index{$_} }, $. for @words;
    my $key = join ',', map { ucfirst } sort @words;
    $seen{$key} = { line => $., words => \@words } if $. % 3 == 0;
    $bytes += length $key;
}
my $longest = (sort { @{ $index{$b} } <=> @{ $index{$a} } || $a cmp $b } keys %index)[0];
print join(' ', $longest, scalar @{ $index{$longest} }, scalar keys %index, scalar keys %seen, $bytes), "\n";
