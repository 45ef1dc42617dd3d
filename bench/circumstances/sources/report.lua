-- Counts the words of a file, or of standard input.
local source = arg[1] == "-" and io.stdin or assert(io.open(arg[1]))
local words, lines = {}, 0
for line in source:lines() do
  lines = lines + 1
  for word in line:gmatch("%S+") do words[word] = (words[word] or 0) + 1 end
end
local made = assert(io.open("report.tmp", "w"))
made:write(lines, "\n")
made:close()
assert(os.rename("report.tmp", "report.txt"))
print(lines, os.date("!%Y"))
