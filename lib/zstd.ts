/** Zstandard (RFC 8878), where Node has it: from 22.15 and 23.8 on. */
import zlib from 'node:zlib'

interface Zstd {
  zstdCompressSync (bytes: Buffer): Buffer
  createZstdCompress (options: { flush: number }): zlib.Gzip
}

/** Node's types for version 20 know nothing of it. */
const maybe = zlib as typeof zlib & Partial<Zstd>

/** Undefined where there is none. */
export const zstd: Zstd | undefined = maybe.zstdCompressSync === undefined ? undefined : maybe as Zstd

/**
 * A frame of one raw block (sections 3.1.1.1 and 3.1.1.2): magic number, a single segment whose size has one byte and no
 * checksum, the head of a last block without compression, the bytes.
 * @param bytes fewer than 256
 */
export function zstdFrame (bytes: Buffer): Buffer {
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, bytes.length, 0, 0, 0])
  head.writeUIntLE(bytes.length << 3 | 1, 6, 3)
  return Buffer.concat([head, bytes])
}
