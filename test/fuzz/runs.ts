/**
 * How often the fuzz tests draw. `FUZZ=20 npx tap --disable-coverage test/fuzz-delivery.test.ts` draws twenty times as often
 * as CI does. Each time it is something else: `FUZZ_SEED=…`, with the seed that a failure names, draws the same again, and
 * looks for the shortest course that fails.
 */
import type { Parameters } from 'fast-check'

export const FACTOR = Number(process.env.FUZZ ?? 1)

/** The parameters of fast-check for so many runs in CI. */
export function runs (count: number): Parameters<any> {
  const numRuns = Math.ceil(count * FACTOR)
  const { FUZZ_SEED: seed } = process.env
  return seed === undefined ? { numRuns, endOnFailure: true } : { numRuns, seed: Number(seed) }
}
