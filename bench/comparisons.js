/** What a figure says in the end: our median beside that of another, and what it must be, or is wished to be. */
import { LIMIT, OURS, STARLETTE } from './contenders.js'

/**
 * @param values of `inRounds`
 * @param names of those of whom the best is taken
 * @param goal `{ better: 'lower' | 'higher', must, aim }`, of the ratio
 * @returns also the `limit`, the same ratio of what has to be done in any case, where that was measured
 */
export function compare (title, values, names, { better, must, aim }) {
  const medianOf = (name) => values[name].median
  const sorted = names.toSorted((a, b) => medianOf(a) - medianOf(b))
  const best = better === 'lower' ? sorted[0] : sorted.at(-1)
  const rival = names.length > 1 ? `${best}, the best on Node` : best
  const ratioOf = (name) => medianOf(name) / medianOf(best)
  const limit = values[LIMIT] === undefined ? undefined : ratioOf(LIMIT)
  return { title, rival, value: ratioOf(OURS), unit: 'x', better, must, aim, limit }
}

/** Beside the best of the peers on Node, and beside the one of another language, where it is there: the goals are the same. */
export function compareToPeers (title, values, peers, goal) {
  const onNode = peers.filter((name) => name !== STARLETTE)
  const others = peers.includes(STARLETTE) ? [compare(title, values, [STARLETTE], goal)] : []
  return [compare(title, values, onNode, goal), ...others]
}

/** What is reached: 'aim', 'must', or 'missed' the must; 'short' of the aim where there is no must. */
export function verdictOf ({ value, better, must, aim }) {
  const reaches = (goal) => better === 'lower' ? value <= goal : value >= goal
  if (reaches(aim)) return 'aim'
  if (must === undefined) return 'short'
  return reaches(must) ? 'must' : 'missed'
}
