/** Measuring in rounds, in each of which everyone has a turn, so that what else the machine does meets all of them. */
import { median } from './common.js'

/**
 * @param runners anything with a name
 * @param measure is given a runner, and resolves to a number
 * @param warmUp whether a round goes before that does not count, for code to be compiled and caches to be filled
 * @returns by name: all values, their median, and how far they spread
 */
export async function inRounds (rounds, runners, measure, { warmUp = true } = {}) {
  const values = new Map(runners.map(({ name }) => [name, []]))
  for (const runner of warmUp ? runners : []) await measure(runner)
  for (let round = 0; round < rounds; round++) {
    // Every other round backwards, lest someone always follow the same neighbour.
    for (const runner of round % 2 === 0 ? runners : runners.toReversed()) {
      values.get(runner.name).push(await measure(runner))
    }
  }
  return Object.fromEntries([...values].map(([name, all]) => [name, summaryOf(all)]))
}

export function summaryOf (rounds) {
  return { median: median(rounds), min: Math.min(...rounds), max: Math.max(...rounds), rounds }
}
