/** A real browser for the tests. */
import { existsSync } from 'node:fs'

/** Where Chromium or Chrome is; undefined where there is none. `CHROMIUM` names another. */
export function chromiumPath () {
  return [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome', '/usr/bin/chromium-browser']
    .find((path) => path !== undefined && existsSync(path))
}
