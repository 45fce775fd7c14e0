-- Binary trees, tables of strings, and closures.
local function tree(depth)
  if depth == 0 then return {} end
  return { tree(depth - 1), tree(depth - 1) }
end
local function count(node)
  if not node[1] then return 1 end
  return 1 + count(node[1]) + count(node[2])
end
local kept = tree(14)
local sum = 0
for depth = 4, 14, 2 do
  for _ = 1, 2 ^ (16 - depth) do sum = sum + count(tree(depth)) end
end
local words = {}
for i = 1, 200000 do
  local key = "key" .. (i * 7919 % 50021)
  words[key] = (words[key] or "") .. string.char(97 + i % 26)
  if #words[key] > 40 then words[key] = nil end
end
local n = 0
for _ in pairs(words) do n = n + 1 end
print(sum, count(kept), n)
