// One call with Anthropic's JavaScript SDK, and what came of it as a line of JSON. client.py is the same in Python.
//
// usage: client.cjs ACTION [OPTIONS], where OPTIONS is the client's options as JSON, named as in Python

const Anthropic = require('@anthropic-ai/sdk')

const HELLO = {
  model: 'claude-sonnet-4-5-20250929',
  max_tokens: 256,
  messages: [{ role: 'user', content: 'Hello' }],
}
const TOOL = {
  name: 'weather',
  description: 'The weather of a place',
  input_schema: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] },
}
const since = start => (performance.now() - start) / 1000

const actions = {
  async plain(client) {
    return told(await client.messages.create(HELLO))
  },
  async stream(client, start) {
    const kinds = []
    let first, text = ''
    for await (const event of await client.messages.create({ ...HELLO, stream: true })) {
      first ??= since(start)
      kinds.push(event.type)
      if (event.type === 'content_block_delta') text += event.delta.text
    }
    const deltas = kinds.filter(kind => kind === 'content_block_delta').length
    return { text, deltas, last: kinds.at(-1), first_s: first }
  },
  async accumulated(client) {
    return told(await client.messages.stream(HELLO).finalMessage())
  },
  // Asks, answers the model's question for a tool, and asks again.
  async tools(client) {
    const asked = { ...HELLO, tools: [TOOL] }
    const message = await client.messages.stream(asked).finalMessage()
    const use = message.content.find(block => block.type === 'tool_use')
    const result = { type: 'tool_result', tool_use_id: use.id, content: 'sunny in ' + use.input.place }
    const messages = [...asked.messages, { role: 'assistant', content: message.content }, { role: 'user', content: [result] }]
    return told(await client.messages.create({ ...asked, messages }))
  },
  async count(client) {
    const { model, messages } = HELLO
    return { input_tokens: (await client.messages.countTokens({ model, messages })).input_tokens }
  },
  async models(client) {
    const models = []
    for await (const model of client.models.list()) models.push(model.id)
    return { models }
  },
}

function told(message) {
  const text = message.content.map(block => block.text ?? '').join('')
  return { text, stop: message.stop_reason, output_tokens: message.usage.output_tokens }
}

function failure(error) {
  return {
    class: error.constructor.name,
    status: error.status ?? null,
    type: error.error?.error?.type ?? null,
    message: error.message,
    retry_after: error.headers?.get('retry-after') ?? null,
    should_retry: error.headers?.get('x-should-retry') ?? null,
  }
}

async function main() {
  const [action, given = '{}'] = process.argv.slice(2)
  const { max_retries: maxRetries, timeout, ...rest } = JSON.parse(given)
  // Python's SDK counts in seconds.
  const options = { ...rest, maxRetries, timeout: timeout && timeout * 1000 }
  const start = performance.now()
  let seen
  try {
    seen = await actions[action](new Anthropic(options), start)
  } catch (error) {
    if (!(error instanceof Anthropic.APIError)) throw error
    seen = { error: failure(error) }
  }
  console.log(JSON.stringify({ ...seen, took_s: since(start) }))
}

main()
