/**
 * A channel that is read by this process: up to where, and who listens. For each listener a boundary is drawn; until that
 * is known, what comes is kept for it.
 */
import type { Entry, Listener } from '../../broker.ts'
import { BEGINNING, compareEntryIds } from '../../entry-id.ts'
import type { Stored } from './record.ts'

type News = { is: 'entry', entry: Entry } | { is: 'lost', position: string } | { is: 'closed' }

export interface Recipient {
  readonly listener: Listener
  /** What came before the boundary is known; undefined: it is. */
  untold: News[] | undefined
  /** What is up to here is not given: it can be read back. Undefined: nothing is any more. */
  boundary: string | undefined
}

export class Watched {
  readonly name: string
  /** Everything up to here was given, or is before the boundaries; undefined: the first boundary is not known yet. */
  position: string | undefined
  /** Up to here the log was read; what is not ours has no place in the chain, but one in the log. */
  readUpTo = BEGINNING
  /** When it is to be seen whether the lease of who holds it has run out. */
  lease: NodeJS.Timeout | undefined
  readonly #recipients = new Set<Recipient>()

  constructor (name: string) {
    this.name = name
  }

  get isIdle (): boolean {
    return this.#recipients.size === 0
  }

  add (listener: Listener): Recipient {
    const recipient: Recipient = { listener, untold: [], boundary: undefined }
    this.#recipients.add(recipient)
    return recipient
  }

  delete (recipient: Recipient): void {
    this.#recipients.delete(recipient)
  }

  /** Tells what came after the boundary meanwhile. */
  begin (recipient: Recipient, boundary: string): void {
    if (this.position === undefined) this.position = this.readUpTo = boundary
    const { untold = [] } = recipient
    recipient.untold = undefined
    recipient.boundary = boundary
    for (const news of untold) {
      if (news.is !== 'lost' || compareEntryIds(news.position, boundary) > 0) this.#tell(recipient, news)
    }
  }

  /** What comes next in the log. */
  take (stored: Stored): void {
    if (stored.previous !== this.position) this.lose(stored.previous)
    this.readUpTo = stored.id
    if (stored.isEnd) return this.#tellAll({ is: 'closed' })
    this.position = stored.id
    // A damaged entry is as good as lost.
    if (stored.entry === undefined) this.#tellAll({ is: 'lost', position: stored.id })
    else this.#tellAll({ is: 'entry', entry: stored.entry })
  }

  lose (position: string): void {
    this.position = this.readUpTo = position
    this.#tellAll({ is: 'lost', position })
  }

  fail (error: unknown): void {
    for (const { listener } of this.#recipients) listener.failed(error)
    this.#recipients.clear()
  }

  #tellAll (news: News): void {
    for (const recipient of this.#recipients) {
      if (recipient.untold === undefined) this.#tell(recipient, news)
      else recipient.untold.push(news)
    }
  }

  #tell (recipient: Recipient, news: News): void {
    const { listener, boundary } = recipient
    if (news.is === 'closed') return listener.closed()
    if (news.is === 'entry' && boundary !== undefined && compareEntryIds(news.entry.id, boundary) <= 0) return
    recipient.boundary = undefined
    if (news.is === 'entry') listener.entry(news.entry)
    else listener.lost(news.position)
  }
}
