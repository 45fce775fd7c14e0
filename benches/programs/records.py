# Parses records, makes objects of them, groups, sorts, and writes them again.
import collections, json, re, sys

class Record:
    def __init__(self, fields):
        self.__dict__.update(fields)
        self.words = [self.name + "-" + tag for tag in self.tags]

total = 0
for _ in range(3):
    with open(sys.argv[1]) as source:
        records = [Record(fields) for fields in json.load(source)]
    groups = collections.defaultdict(list)
    for record in records:
        for word in record.words:
            groups[word[:3]].append((record.price * record.stock, word))
    for group in groups.values():
        group.sort()
    text = json.dumps({key: value[-5:] for key, value in groups.items()}, sort_keys=True)
    parts = re.findall(r"[a-z0-9]+", text)
    total += len(parts) + sum(len(part) for part in parts)
print(total)
