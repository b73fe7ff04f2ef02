// What a page would read: fetches the addresses that it is given and prints each value as it has it.
// A number is told by its bits, so that nothing between can round it.
const exact = (value) => {
  if (typeof value === 'number') {
    const view = new DataView(new ArrayBuffer(8))
    view.setFloat64(0, value)
    return { number: view.getBigUint64(0).toString(16).padStart(16, '0') }
  }
  if (Array.isArray(value)) return { list: value.map(exact) }
  if (value === null || typeof value !== 'object') return { plain: value }
  return { members: Object.keys(value).map((key) => [key, exact(value[key])]) }
}

for (const address of process.argv.slice(2)) {
  const response = await fetch(address)
  const text = await response.text()
  const isStream = response.headers.get('content-type') === 'text/event-stream'
  const values = isStream
    ? text.split('\n').filter((line) => line.startsWith('data: ')).map((line) => JSON.parse(line.slice(6)))
    : [JSON.parse(text)]
  process.stdout.write(JSON.stringify(exact(values)) + '\n')
}
