/** A compressor for the stream of one client: what was sent before helps to compress what comes, and each write is flushed. */
import zlib from 'node:zlib'
import type { Coding } from './coding.ts'
import { zstd } from './zstd.ts'

interface Compressing {
  /** Told of each number of bytes that leaves. */
  count: (bytes: number) => void
  /** All that was written has left; the destination is not ended. */
  onEnd: () => void
  onError: () => void
}

/** @returns what is to be written to. Whoever ends it before its time destroys it: it holds some 200 KB */
export function compressTo (
  coding: Coding, destination: NodeJS.WritableStream, { count, onEnd, onError }: Compressing
): zlib.Gzip {
  const { Z_SYNC_FLUSH, ZSTD_e_flush: flush = 0 } = zlib.constants as typeof zlib.constants & { ZSTD_e_flush?: number }
  const compressor = coding === 'gzip' ? zlib.createGzip({ flush: Z_SYNC_FLUSH }) : zstd!.createZstdCompress({ flush })
  compressor.on('data', ({ length }: Buffer) => count(length)).once('end', onEnd).once('error', onError)
  compressor.pipe(destination, { end: false })
  return compressor
}
