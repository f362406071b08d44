/**
 * For those who test what they build on this package.
 * @module fastify-typed-sse/testing
 */
import { holdingLaws } from './laws-of-holding.ts'
import { listeningLaws } from './laws-of-listening.ts'
import { logLaws } from './laws-of-the-log.ts'
import type { BrokerLaw } from './law.ts'

export { injectSse, type InjectedEvents, type InjectedHead, type InjectSseOptions } from './inject.ts'
export type { BrokerLaw, Brokers } from './law.ts'

/**
 * The contract of `Broker` as a list of named checks, for any test runner. Each takes channels of its own, so an engine
 * can be used for all of them; none takes longer than a few seconds.
 *
 *     for (const { name, check } of brokerLaws) test(name, () => check({ one: myBroker(), other: myBroker() }))
 */
export const brokerLaws: readonly BrokerLaw[] = [...logLaws, ...listeningLaws, ...holdingLaws]
