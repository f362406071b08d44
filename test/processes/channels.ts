/** The channels that processes share: how one is kept is told by what its name begins with. */
import type { ChannelOptions } from '../../index.ts'

const KINDS = {
  /** Nothing of it is ever let go of. */
  large: { history: { events: 1_000_000, bytes: 1e9 } },
  /** As it is, and who falls behind stays. */
  lasting: { history: { events: 1_000_000, bytes: 1e9 }, onLag: 'gap' },
  small: { history: { events: 40, bytes: 1e9 } },
  /** Of keys and their counts; what holds is in Redis. */
  state: { history: { events: 40, bytes: 1e9 }, onLag: 'gap' }
} satisfies Record<string, ChannelOptions>

export type Kind = keyof typeof KINDS

export function kindOf (name: string): Kind {
  return name.slice(0, name.indexOf('.')) as Kind
}

export function optionsOf (name: string): Pick<ChannelOptions, 'history' | 'onLag'> {
  return KINDS[kindOf(name)]
}

/** How many entries are retained. */
export function historyOf (name: string): number {
  return KINDS[kindOf(name)].history.events
}

/** Where what holds is, by key. */
export function stateKeyOf (name: string): string {
  return `state of ${name}`
}
