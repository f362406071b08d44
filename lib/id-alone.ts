/**
 * A block that tells a client its last event ID and nothing else. "Dispatch the event" sets the last event ID before it
 * looks at the data (HTML spec, section 9.2.6), so by the standard an ID without data is remembered, and nobody sees an
 * event.
 */
import { frame, idFrame } from './frame.ts'

/** The type of an event that carries nothing but its ID, for clients that forget one without data. Nobody listens to it. */
const POSITION = 'fastify-typed-sse:position'

/**
 * @param userAgent of the client
 * @param type of the event, where it needs one
 */
export function idAlone (id: string, userAgent: string | undefined, type = POSITION): string {
  if (userAgent === undefined || !forgetsIdAlone(userAgent)) return idFrame(id)
  return frame({ id, event: type, retry: undefined, comment: undefined }, '')
}

/**
 * Firefox and WebKit (Safari, and every browser on iOS) look at the data first: an ID without data is forgotten, and a
 * finished stream would start again for ever. Chromium has "Safari" in its name too.
 */
function forgetsIdAlone (userAgent: string): boolean {
  return /\bFirefox\//.test(userAgent) || (/\bSafari\//.test(userAgent) && !/Chrom(e|ium)\//.test(userAgent))
}
