/** A typed view of an EventSource. */
import type { Check, ClientEvent, ClientEventOfType, EventSourceLike } from './events.ts'
import { receive } from './receive.ts'

/** What `typedEventSource` gives. */
export interface TypedEventSource<Events> {
  /** The EventSource that was given, whose `readyState` and `onerror` tell how it is. */
  readonly source: EventSourceLike
  /**
   * Listens to one event type; to 'gap', too.
   * @returns takes the listener off
   */
  on<Type extends ClientEvent<Events>['event']>(
    type: Type, listener: (event: ClientEventOfType<Events, Type>) => void
  ): () => void
  /** Closes the EventSource. */
  close (): void
}

/** Options of `typedEventSource`. */
export interface TypedEventSourceOptions<Events> {
  /** Looks at the data of each event before its listener does. Default: nothing is checked. */
  check?: Check<Events> | undefined
  /**
   * Is given the error SSE_INVALID_DATA, or what `check` has thrown, and the listener is not called. Default: it is thrown
   * where the EventSource calls its listeners, so that it is reported as any error of theirs. What `onInvalid` throws is, too.
   */
  onInvalid?: ((error: unknown) => void) | undefined
}

/**
 * A view of an EventSource that knows the event types of a server, and the types of their data:
 * `typedEventSource<typeof events>(new EventSource(url))`.
 * @param source an EventSource that the caller has made, and whose errors the caller looks after
 * @param options what is looked at before a listener is called
 */
export function typedEventSource<Events extends Record<string, object> | undefined = undefined> (
  source: EventSourceLike, { check, onInvalid = rethrow }: TypedEventSourceOptions<Events> = {}
): TypedEventSource<Events> {
  return {
    source,
    on (type, listener) {
      function onEvent ({ data: text, lastEventId }: { data?: unknown, lastEventId?: string }) {
        // The events 'open' and 'error' of an EventSource itself have no data; those of a server that are called so have.
        if (typeof text !== 'string') return
        let event
        try {
          event = receive(type, text, lastEventId, check as Check<undefined> | undefined)
        } catch (error) {
          return onInvalid(error)
        }
        listener(event as Parameters<typeof listener>[0])
      }
      source.addEventListener(type, onEvent)
      return () => source.removeEventListener(type, onEvent)
    },
    close: () => source.close()
  }
}

function rethrow (error: unknown): never {
  throw error
}
