// Counts the words of a file, or of standard input; SIGUSR2 shows where it is.
const fs = require('fs');
let lines = 0;
process.on('SIGUSR2', () => console.error('lines so far:', lines));
process.on('SIGTERM', () => { console.error('ended after', lines); process.exit(3); });
const source = process.argv[2] === '-' ? process.stdin : fs.createReadStream(process.argv[2]);
const words = new Map();
source.on('error', error => { console.error(error.message); process.exit(1); });
source.on('data', piece => {
  for (const line of piece.toString().split('\n')) {
    lines++;
    words.set(line, (words.get(line) || 0) + 1);
  }
});
source.on('end', () => {
  fs.writeFileSync('report.tmp', JSON.stringify([...words].slice(0, 10)));
  fs.renameSync('report.tmp', 'report.json');
  console.log(lines, words.size);
});
