// fetch.mjs COUNT URL...: node's fetch.
const [count, ...urls] = process.argv.slice(2);
for (let i = 0; i < count; i++) {
  try {
    const answer = await fetch(urls[i % urls.length], { signal: AbortSignal.timeout(20000) });
    console.log('got', (await answer.text()).trim());
  } catch (error) {
    console.log('failed', error.cause?.code ?? error.message);
  }
}
