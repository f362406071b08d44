/** Starlette and uvicorn, which are not of npm: as Debian has them. */
import { execFileSync, spawnSync } from 'node:child_process'

const PACKAGES = ['python3-starlette', 'uvicorn', 'python3-uvloop', 'python3-httptools']

/** Debian's own, which is the one that sees its packages. */
export const PYTHON = '/usr/bin/python3'

const installed = () => spawnSync(PYTHON, ['-c', 'import starlette, uvicorn, uvloop, httptools']).status === 0

function install () {
  const apt = (...args) => spawnSync('apt-get', args, { stdio: 'ignore' }).status === 0
  return apt('update') && apt('install', '--yes', '--no-install-recommends', ...PACKAGES)
}

/** Installs them, where that is possible. Says why they are left out. */
export function haveStarlette () {
  if (installed() || (process.getuid?.() === 0 && install() && installed())) return true
  console.log(`Starlette is left out: it needs ${PACKAGES.join(', ')}, which can be installed here by root on Debian only`)
  return false
}

/** Versions of the Python packages, by name; none where they are not installed. */
export function pythonVersions () {
  if (!installed()) return {}
  const program = 'import json, platform, starlette, uvicorn; print(json.dumps({' +
    '"python": platform.python_version(), "starlette": starlette.__version__, "uvicorn": uvicorn.__version__}))'
  return JSON.parse(execFileSync(PYTHON, ['-c', program], { encoding: 'utf8' }))
}
