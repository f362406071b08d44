/** Something that Redis is asked, and what has become of it until it is settled. */
import type { Argument } from './client.ts'
import type { Trace } from './recall.ts'
import type { Script } from './scripts.ts'

export interface Order {
  /** The command; of a script what follows its keys. */
  args: () => Argument[]
  script?: { readonly script: Script, readonly keys: readonly string[] }
  /** It must not be carried out twice, and by this it is known again, where the same server process answers. */
  trace?: Trace
  /** It is not asked for again. */
  once?: true
  /** It changes nothing of which it would matter whether it was carried out. */
  reads?: boolean
  /** Milliseconds by which it may take longer, or less long. */
  longer?: number
}

export interface Pending extends Order {
  /** Those that are asked for again keep their place. */
  readonly number: number
  /** It may have been carried out. */
  tried: boolean
  /** By the clock of Redis, at the earliest, when it was sent first. */
  since: number
  /** The node of a cluster has said so, and is given it. */
  lacksScript: boolean
  /** `performance.now()` when it was sent last. */
  sentAt: number
  /** Also where the connection broke. */
  isAnswered: boolean
  timer: NodeJS.Timeout | undefined
  resolve (reply: unknown): void
  reject (error: unknown): void
}

export function pendingOf (order: Order, number: number, { resolve, reject }: Pick<Pending, 'resolve' | 'reject'>): Pending {
  const untried = { tried: false, since: 0, lacksScript: false, sentAt: 0, isAnswered: false, timer: undefined }
  return { ...order, ...untried, number, resolve, reject }
}

export function commandOf ({ args, script, lacksScript }: Pending): [command: string, ...args: Argument[]] {
  if (script === undefined) return args() as [string, ...Argument[]]
  const { keys, script: { sha, text } } = script
  const [command, which] = lacksScript ? ['EVAL', text] : ['EVALSHA', sha]
  return [command!, which!, keys.length, ...keys, ...args()]
}
