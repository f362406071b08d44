/** How a finite stream ends, so that an EventSource stops for good instead of starting it again. */
import { FINISHED_ID } from './client/finished-id.ts'
import { idAlone } from './id-alone.ts'

/** The last block of a finite stream, for this client. */
export function finishedFrame (userAgent: string | undefined): string {
  return idAlone(FINISHED_ID, userAgent, FINISHED_ID)
}
