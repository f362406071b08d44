/** What is drawn by lot, from a seed. */
export type Random = () => number

/** Mulberry32. */
export function createRandom (seed: number): Random {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let value = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296
  }
}

export function below (random: Random, end: number): number {
  return Math.floor(random() * end)
}

/** Mostly short, now and then larger than what one write takes; a cut may fall inside a character. */
export function textOf (random: Random): string {
  const kind = random()
  return 'aé€😀'.repeat(kind < 0.9 ? below(random, 20) : kind < 0.998 ? below(random, 200) : below(random, 8_000))
}
