/** The last event ID as a header (section 9.2.3): "encoded as UTF-8", a character for each byte, as `fetch` takes it. */

const encoder = new TextEncoder()

export function toHeader (id: string): string {
  return Array.from(encoder.encode(id), (byte) => String.fromCharCode(byte)).join('')
}
