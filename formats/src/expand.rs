//! One compressed stream at the start of some bytes, of whatever format the kernel expands an initramfs or itself from, and
//! where it ends. Writes nothing (`compress` does) and does not know what is inside.
//!
//! The magics are those of lib/decompress.c of the kernel. Of lz4 it takes the legacy form alone, which has no end mark: a
//! block that expands to less than 8 MiB, or a length that can be none, is the end.

use std::io::{self, Read};

use liblzma::stream::Stream as Lzma;

use crate::compress::Error;

/// Memory that one decoder of xz or lzma may take; a kernel's own dictionary is 32 MiB, that of `xz -9` 64 MiB.
const LZMA_MEMORY: u64 = 256 << 20;
/// Largest zstd window, as a power of two: the kernel image's `--ultra -22`.
const ZSTD_WINDOW_LOG: u32 = 27;
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What each block of legacy lz4 but the last expands to.
const LZ4_BLOCK: usize = 8 << 20;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Packing {
    /// gzip, or its older magic.
    Gzip,
    /// bzip2.
    Bzip2,
    /// lzma, without a container.
    Lzma,
    /// xz.
    Xz,
    /// lzop. Told, but not expanded.
    Lzo,
    /// lz4 in its legacy form.
    Lz4,
    /// zstd.
    Zstd,
}

impl Packing {
    /// Tells it by its first bytes.
    pub fn detect(head: &[u8]) -> Option<Packing> {
        let magics: [(&[u8], Packing); 8] = [
            (&[0x1f, 0x8b], Packing::Gzip),
            (&[0x1f, 0x9e], Packing::Gzip),
            (b"BZh", Packing::Bzip2),
            (&[0x5d, 0, 0], Packing::Lzma),
            (b"\xfd7zXZ\0", Packing::Xz),
            (&[0x89, b'L', b'Z', b'O', 0], Packing::Lzo),
            (&LZ4_MAGIC, Packing::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
        ];
        magics.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, packing)| *packing)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Bzip2 => "bzip2",
            Packing::Lzma => "lzma",
            Packing::Xz => "xz",
            Packing::Lzo => "lzo",
            Packing::Lz4 => "lz4",
            Packing::Zstd => "zstd",
        }
    }
}

/// One stream, expanded as it is read; what follows it is not touched.
pub struct Expander<'a> {
    data: &'a [u8],
    inner: Inner<'a>,
}

enum Inner<'a> {
    Gzip(flate2::bufread::GzDecoder<&'a [u8]>),
    Bzip2(bzip2::bufread::BzDecoder<&'a [u8]>),
    Lzma(liblzma::bufread::XzDecoder<&'a [u8]>),
    Lz4(Lz4<'a>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
}

impl<'a> Expander<'a> {
    /// Begins at the start of `data`, which must have the magic of this format.
    pub fn new(data: &'a [u8], packing: Packing) -> Result<Expander<'a>, Error> {
        let inner = match packing {
            Packing::Gzip => Inner::Gzip(flate2::bufread::GzDecoder::new(data)),
            Packing::Bzip2 => Inner::Bzip2(bzip2::bufread::BzDecoder::new(data)),
            Packing::Xz | Packing::Lzma => {
                let stream = match packing {
                    Packing::Xz => Lzma::new_stream_decoder(LZMA_MEMORY, 0)?,
                    _ => Lzma::new_lzma_decoder(LZMA_MEMORY)?,
                };
                Inner::Lzma(liblzma::bufread::XzDecoder::new_stream(data, stream))
            }
            Packing::Lzo => {
                let text = "compressed by lzop, which cannot be read here";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text).into());
            }
            Packing::Lz4 => Inner::Lz4(Lz4::new(data)),
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(data)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Inner::Zstd(decoder.single_frame())
            }
        };
        Ok(Expander { data, inner })
    }

    /// Bytes of the stream that were read so far; all of them at its end.
    pub fn used(self) -> usize {
        match self.inner {
            Inner::Gzip(decoder) => self.data.len() - decoder.into_inner().len(),
            Inner::Bzip2(decoder) => self.data.len() - decoder.into_inner().len(),
            Inner::Lzma(decoder) => self.data.len() - decoder.into_inner().len(),
            Inner::Lz4(lz4) => self.data.len() - lz4.rest.len(),
            Inner::Zstd(decoder) => self.data.len() - decoder.finish().len(),
        }
    }
}

impl Read for Expander<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Gzip(decoder) => decoder.read(buf),
            Inner::Bzip2(decoder) => decoder.read(buf),
            Inner::Lzma(decoder) => decoder.read(buf),
            Inner::Lz4(lz4) => lz4.read(buf),
            Inner::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// The legacy form of lz4: a magic, then blocks, each behind its length.
struct Lz4<'a> {
    rest: &'a [u8],
    block: Vec<u8>,
    at: usize,
    done: bool,
}

impl<'a> Lz4<'a> {
    fn new(data: &'a [u8]) -> Lz4<'a> {
        Lz4 { rest: data.get(LZ4_MAGIC.len()..).unwrap_or_default(), block: Vec::new(), at: 0, done: false }
    }

    /// The next block's bytes, if there is one.
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return None;
        }
        let (block, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(block)
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.done {
            let first = self.block.is_empty();
            let Some(packed) = self.next() else {
                self.done = true;
                return match first {
                    true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "lz4: cut off")),
                    false => Ok(0),
                };
            };
            // A block expands to at most 255 times its bytes: what is not there is not allocated.
            self.block.resize(LZ4_BLOCK.min(packed.len().saturating_mul(255)), 0);
            let size = lz4_flex::block::decompress_into(packed, &mut self.block)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("lz4: {e}")))?;
            self.block.truncate(size);
            self.at = 0;
            self.done = size < LZ4_BLOCK;
        }
        let n = buf.len().min(self.block.len() - self.at);
        buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// The stream at the start of `data`, expanded, and how many bytes of `data` it has. More than `limit` bytes are an error.
pub fn stream(data: &[u8], packing: Packing, limit: u64) -> Result<(Vec<u8>, usize), Error> {
    let mut expander = Expander::new(data, packing)?;
    let mut out = Vec::new();
    (&mut expander).take(limit.saturating_add(1)).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(Error::TooLarge { limit });
    }
    Ok((out, expander.used()))
}
