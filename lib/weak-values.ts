/** A map that holds its values as long as somebody else does. */
export class WeakValues<Value extends object> {
  readonly #values = new Map<string, WeakRef<Value>>()
  readonly #collected = new FinalizationRegistry<string>((key) => {
    // The key may have a new value by now.
    if (this.get(key) === undefined) this.#values.delete(key)
  })

  get (key: string): Value | undefined {
    return this.#values.get(key)?.deref()
  }

  set (key: string, value: Value): void {
    this.#values.set(key, new WeakRef(value))
    this.#collected.register(value, key)
  }
}
