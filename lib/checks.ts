/** Which values options can have, in words for those who gave another. */
import type { Broker } from './broker.ts'
import { describe } from './describe.ts'
import { InvalidOption } from './errors.ts'
import type { MetricsRegistry } from './metrics.ts'
import { LONGEST_TIMER } from './timeouts.ts'

/** Says what was expected instead of a value; undefined where the value is right. */
export type Check = (value: unknown) => string | undefined

/** The same, or off. */
export function off (check: Check): Check {
  return (value) => {
    const expected = value === false ? undefined : check(value)
    return expected && `${expected}, or false`
  }
}

/** Of a length of time. */
export function milliseconds (least: number, most = LONGEST_TIMER): Check {
  return (value) => isInteger(value, least, most) ? undefined : `an integer of milliseconds from ${least} to ${most}`
}

export const atLeastOne: Check = (value) => isInteger(value, 1, Number.MAX_SAFE_INTEGER) ? undefined : 'an integer >= 1'
export const isBoolean: Check = (value) => typeof value === 'boolean' ? undefined : 'true or false'
export const isString: Check = (value) => typeof value === 'string' ? undefined : 'a string'
export const isObject: Check = (value) => typeof value === 'object' && value !== null ? undefined : 'an object'
export const isSignal: Check = (value) => value instanceof AbortSignal ? undefined : 'an AbortSignal'
export const isFunction: Check = (value) => typeof value === 'function' ? undefined : 'a function'
export const isInvalidEventPolicy: Check = (value) => value === 'fail' || value === 'drop' ? undefined : "'fail' or 'drop'"

/** Of a length of time, or a range. */
export function duration (least: number): Check {
  return (value) => {
    const { min, max } = typeof value === 'object' && value !== null ? value as { min?: unknown, max?: unknown } : { min: value, max: value }
    return isInteger(min, least, LONGEST_TIMER) && isInteger(max, min, LONGEST_TIMER)
      ? undefined
      : `an integer of milliseconds from ${least} to ${LONGEST_TIMER}, or { min, max } of such, min not above max`
  }
}

/** A broker by its shape: it may come from another package. */
export function isBroker (value: unknown): string | undefined {
  const methods: (keyof Broker)[] = ['open', 'append', 'close', 'read', 'listen']
  const fits = methods.every((name) => typeof (value as Partial<Broker> | null)?.[name] === 'function')
  return fits ? undefined : 'a broker, such as memoryBroker() or redisBroker(new Redis())'
}

/** A registry of Prometheus by its shape, for the same reason. */
export const isRegistry: Check = (value) => {
  const methods: (keyof MetricsRegistry)[] = ['registerMetric', 'getSingleMetric', 'removeSingleMetric']
  const fits = methods.every((name) => typeof (value as Partial<MetricsRegistry> | null)?.[name] === 'function')
  return fits ? undefined : 'a registry of prom-client, such as new Registry()'
}

/** @throws {InvalidOption} */
export function checkOptions (options: object, checks: Record<string, Check>, where: string): void {
  if (typeof options !== 'object' || options === null) {
    throw new InvalidOption(`the options of ${where} must be an object, got ${describe(options)}`)
  }
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(checks, name)) {
      throw new InvalidOption(`${where} has no option '${name}': it has ${Object.keys(checks).join(', ')}`)
    }
    const expected = value === undefined ? undefined : checks[name]!(value)
    if (expected !== undefined) throw new InvalidOption(`'${name}' of ${where} must be ${expected}, got ${describe(value)}`)
  }
}

/**
 * A broker in the place of options has none of their names, and would be passed over.
 * @throws {InvalidOption}
 */
export function checkNoBroker (options: unknown, where: string): void {
  if (isBroker(options) === undefined) throw new InvalidOption(`${where} takes options, such as { broker }, but got a broker`)
}

export function isInteger (value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most
}
