/** The errors of the client. What is transient is no error: it comes back by itself. */
import type { Received } from './events.ts'

/** An error of the client. By `code` the kinds are told from each other. */
export class SseError extends Error {
  /** 'SseError'. */
  override readonly name = 'SseError'
  /** SSE_REFUSED: the answer is no event stream. SSE_INVALID_DATA: an event that `check` has found wrong. */
  readonly code: 'SSE_REFUSED' | 'SSE_INVALID_DATA'
  /** Of SSE_REFUSED: the answer, its body unread. */
  readonly response: Response | undefined
  /** Of SSE_REFUSED: the status of the answer. */
  readonly status: number | undefined
  /** Of SSE_INVALID_DATA: the event. */
  readonly event: Received<string, unknown> | undefined

  /** For the client itself. */
  constructor (
    code: SseError['code'], message: string, { response, event }: { response?: Response, event?: Received<string, unknown> }
  ) {
    super(message)
    this.code = code
    this.response = response
    this.status = response?.status
    this.event = event
  }
}
