CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, grp INTEGER, price INTEGER);
CREATE TABLE orders(id INTEGER PRIMARY KEY, item INTEGER, amount INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO items SELECT i, 'item ' || (i * 7919 % 60013), i % 97, i * 31 % 1009 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
INSERT INTO orders SELECT i, 1 + i * 5381 % 60000, i % 13, printf('note %d of %d', i, i * 17 % 1000) FROM n;
CREATE INDEX by_name ON items(name);
CREATE INDEX by_item ON orders(item, amount);
SELECT grp, count(*), sum(price * amount) FROM items JOIN orders ON orders.item = items.id GROUP BY grp ORDER BY 3 DESC LIMIT 5;
SELECT substr(note, 1, 6) AS head, count(DISTINCT item), group_concat(DISTINCT amount) FROM orders GROUP BY head ORDER BY head LIMIT 5;
UPDATE items SET name = upper(name) || '!' WHERE id % 3 = 0;
DELETE FROM orders WHERE amount = 7;
SELECT count(*), max(length(name)) FROM items WHERE name LIKE '%1%';
SELECT count(*) FROM (SELECT name FROM items ORDER BY name DESC);
VACUUM;
