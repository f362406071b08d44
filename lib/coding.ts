/** Content codings (RFC 9110, section 8.4): which there are, and which one a client gets. */
import type { IncomingHttpHeaders } from 'node:http'
import { zstd } from './zstd.ts'

export type Coding = 'gzip' | 'zstd'

/** The best first: zstd costs less, and gives more. */
export const CODINGS: readonly Coding[] = zstd === undefined ? ['gzip'] : ['zstd', 'gzip']

/**
 * The coding that a client likes best; undefined: none (RFC 9110, section 12.5.3).
 * @param pieces whether the stream is put together of pieces
 */
export function acceptedCoding (headers: IncomingHttpHeaders, pieces: boolean): Coding | undefined {
  const weights = new Map(String(headers['accept-encoding'] ?? '').toLowerCase().split(',').map(weigh))
  const weightOf = (coding: Coding) => weights.get(coding) ?? weights.get('*') ?? 0
  const codings = CODINGS.filter((coding) => coding !== 'zstd' || !pieces || readsFrames(headers['user-agent'] ?? ''))
  const best = Math.max(...codings.map(weightOf))
  return best > 0 ? codings.find((coding) => weightOf(coding) === best) : undefined
}

/** `gzip;q=0.5`: what is not said to weigh anything weighs 1; what makes no sense, nothing. */
function weigh (wish: string): [name: string, weight: number] {
  const [name = '', weight = '1'] = wish.split(/;\s*q\s*=/)
  return [name.trim(), Number(weight) || 0]
}

/**
 * By the standard a zstd stream has any number of frames (RFC 8878, section 3.1), but many decoders, Node's own too, stop
 * after the first and drop the rest in silence. Chromium reads all of them.
 */
function readsFrames (userAgent: string): boolean {
  return /Chrom(e|ium)\//.test(userAgent)
}
