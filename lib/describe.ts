/** What came instead of what was expected, in words for a message. */

/** Of a value that the program itself has written: options, fields of events. Of an object only what it is. */
export function describe (value: unknown): string {
  if (typeof value !== 'string') return describeData(value)
  return `the string ${JSON.stringify(value.length > 40 ? value.slice(0, 39) + '…' : value)}`
}

/** Of data, of which no text is told: it may be nobody's business. Never throws. */
export function describeData (value: unknown): string {
  try {
    return kindOf(value)
  } catch {
    return 'an object that cannot be looked at'
  }
}

function kindOf (value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return `an array of ${value.length}`
  switch (typeof value) {
    case 'string': return `a string of length ${value.length}`
    case 'object': return `an object (${classOf(value)})`
    case 'function': return `a function (${nameOf(value)})`
    case 'undefined': return 'undefined'
    default: return `the ${typeof value} ${String(value)}`
  }
}

/** Why something was thrown, on one line. */
export function reasonOf (error: unknown): string {
  return String((error as Partial<Error> | null | undefined)?.message ?? error).split('\n')[0]!
}

/** The name of its class, which is the program's; never a property of its own, which is data. */
function classOf (value: object): string {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (typeof prototype !== 'object' || prototype === null) return 'no prototype'
  const constructor: unknown = Object.getOwnPropertyDescriptor(prototype, 'constructor')?.value
  return typeof constructor === 'function' ? nameOf(constructor) : 'of no class'
}

function nameOf ({ name }: { name: unknown }): string {
  return typeof name === 'string' && name !== '' ? name : 'anonymous'
}
