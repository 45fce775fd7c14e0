# How often each word and each pair of words comes.
{
    for (i = 1; i <= NF; i++) {
        words[$i]++
        if (i > 1) pairs[$(i - 1) " " $i]++
    }
    line = toupper(substr($0, 1, 40)) "-" NR
    lines[NR % 5000] = line
}
END {
    for (word in words) if (words[word] > most) { most = words[word]; best = word }
    for (pair in pairs) count++
    print best, most, count, length(lines)
}
