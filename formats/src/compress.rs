//! gzip, xz and zstd as the kernel's decompressors take them, written so that equal input gives equal bytes.
//! Knows the formats by their magic; does not know what is inside, and never expands beyond the caller's bound.
//!
//! xz is always the multi-threaded encoder with blocks of [`XZ_BLOCK`], so the thread count does not show in the
//! bytes (xz's own `-T1` writes one block, `-T2` several). The check is CRC32, the only one the kernel has. The
//! dictionary is at most [`XZ_DICT_MAX`], which the kernel allocates while it boots; a larger one than the block
//! would find nothing. No BCJ filter: it would have to match the kernel's configuration.
//! zstd is one single-threaded frame of at most level 19, whose window of 8 MiB every decoder accepts.
//! [`compress_file`] is for files that the running kernel expands one by one, which asks for more.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};

use liblzma::stream::{CONCATENATED, Check, Filters, LzmaOptions, MtStreamBuilder, Stream};

/// Uncompressed size of one xz block.
pub const XZ_BLOCK: u64 = 16 << 20;
/// Largest xz dictionary written.
pub const XZ_DICT_MAX: u32 = 16 << 20;
/// Memory one xz decoder may take: enough for every preset of xz, not for a header that claims gigabytes.
const XZ_MEMORY: u64 = 256 << 20;
/// Largest zstd window accepted, as a power of two (128 MiB, the kernel image's `--ultra -22`).
const ZSTD_WINDOW_LOG: u32 = 27;

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 0–9, without name and time.
    Gzip {
        /// 0–9.
        level: u32,
    },
    /// xz, preset 0–9.
    Xz {
        /// 0–9.
        level: u32,
    },
    /// zstd, level 1–19.
    Zstd {
        /// 1–19.
        level: i32,
    },
}

impl Compression {
    /// What it writes.
    pub fn format(self) -> Format {
        match self {
            Compression::None => Format::None,
            Compression::Gzip { .. } => Format::Gzip,
            Compression::Xz { .. } => Format::Xz,
            Compression::Zstd { .. } => Format::Zstd,
        }
    }
}

/// A compressed format, as told by magic bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Anything else.
    None,
    /// 1f 8b.
    Gzip,
    /// fd "7zXZ" 00.
    Xz,
    /// 28 b5 2f fd.
    Zstd,
}

impl Format {
    /// Length of the longest magic.
    pub const MAGIC_LEN: usize = 6;

    /// Tells the format from the first [`Format::MAGIC_LEN`] bytes.
    pub fn detect(head: &[u8]) -> Format {
        if head.starts_with(&[0x1f, 0x8b]) {
            Format::Gzip
        } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Format::Xz
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Format::Zstd
        } else {
            Format::None
        }
    }

    /// Usual suffix of file names with its dot; empty for [`Format::None`].
    pub fn suffix(self) -> &'static str {
        match self {
            Format::None => "",
            Format::Gzip => ".gz",
            Format::Xz => ".xz",
            Format::Zstd => ".zst",
        }
    }
}

/// Why bytes could not be compressed or expanded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The underlying reader or writer failed, or the data is damaged.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A level the format does not have.
    #[error("{format:?} has no level {level}; it goes from {min} to {max}")]
    Level {
        /// The format.
        format: Format,
        /// The level asked for.
        level: i64,
        /// Lowest level.
        min: i64,
        /// Highest level.
        max: i64,
    },
    /// The xz library refused its settings.
    #[error("xz: {0}")]
    Xz(#[from] liblzma::stream::Error),
    /// The data expands to more than the caller allows.
    #[error("expands to more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
}

/// Compresses what is written to it. [`Encoder::finish`] must be called.
pub enum Encoder<W: Write> {
    /// Passes through.
    Plain(W),
    /// gzip.
    Gzip(flate2::write::GzEncoder<W>),
    /// xz.
    Xz(Box<liblzma::write::XzEncoder<W>>),
    /// zstd.
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    /// Starts a stream into `out`. `threads` serves xz only and never changes the bytes.
    pub fn new(out: W, how: Compression, threads: u32) -> Result<Self, Error> {
        let check = |level: i64, min, max| match level {
            l if l < min || l > max => Err(Error::Level { format: how.format(), level, min, max }),
            _ => Ok(()),
        };
        Ok(match how {
            Compression::None => Encoder::Plain(out),
            Compression::Gzip { level } => {
                check(level.into(), 0, 9)?;
                let level = flate2::Compression::new(level);
                Encoder::Gzip(flate2::GzBuilder::new().mtime(0).write(out, level))
            }
            Compression::Xz { level } => {
                check(level.into(), 0, 9)?;
                Encoder::Xz(Box::new(liblzma::write::XzEncoder::new_stream(out, xz_stream(level, threads)?)))
            }
            Compression::Zstd { level } => {
                check(level.into(), 1, 19)?;
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        })
    }

    /// Ends the stream and gives back the output.
    pub fn finish(self) -> Result<W, Error> {
        Ok(match self {
            Encoder::Plain(mut out) => {
                out.flush()?;
                out
            }
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Xz(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        })
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(out) => out.write(buf),
            Encoder::Gzip(encoder) => encoder.write(buf),
            Encoder::Xz(encoder) => encoder.write(buf),
            Encoder::Zstd(encoder) => encoder.write(buf),
        }
    }

    /// Does nothing but for plain output: a flush point in a compressed stream would change its bytes.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(out) => out.flush(),
            _ => Ok(()),
        }
    }
}

fn xz_stream(level: u32, threads: u32) -> Result<Stream, Error> {
    let mut options = LzmaOptions::new_preset(level)?;
    // Presets 7, 8 and 9 differ from 6 in nothing but a dictionary of 16, 32 and 64 MiB.
    if level >= 7 {
        options.dict_size(XZ_DICT_MAX);
    }
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let mut builder = MtStreamBuilder::new();
    builder.threads(threads.clamp(1, 64)).block_size(XZ_BLOCK).filters(filters).check(Check::Crc32);
    Ok(builder.encoder()?)
}

/// Compresses `data` in memory.
pub fn compress(data: &[u8], how: Compression, threads: u32) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new(Vec::new(), how, threads)?;
    encoder.write_all(data)?;
    encoder.finish()
}

/// Dictionary of each xz preset that has a smaller one than [`XZ_DICT_MAX`], in bytes.
const XZ_DICTS: [u32; 7] = [256 << 10, 1 << 20, 2 << 20, 4 << 20, 4 << 20, 8 << 20, 8 << 20];
/// The smallest xz dictionary that there is.
const XZ_DICT_MIN: u32 = 4 << 10;

/// Compresses one file as the kernel's firmware loader expands it (drivers/base/firmware_loader/main.c): the dictionary
/// of xz, which it allocates for each file, is no larger than the file asks for; a zstd frame begins with the size of
/// the content, without which it is refused.
pub fn compress_file(data: &[u8], how: Compression) -> Result<Vec<u8>, Error> {
    match how {
        Compression::Xz { level: level @ 0..=9 } => {
            let mut options = LzmaOptions::new_preset(level)?;
            let preset = XZ_DICTS.get(level as usize).copied().unwrap_or(XZ_DICT_MAX);
            let size = u32::try_from(data.len()).ok().and_then(u32::checked_next_power_of_two);
            options.dict_size(size.map_or(preset, |size| size.clamp(XZ_DICT_MIN, preset)));
            let mut filters = Filters::new();
            filters.lzma2(&options);
            let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(data)?;
            Ok(encoder.finish()?)
        }
        Compression::Zstd { level: level @ 1..=19 } => {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.include_checksum(true)?;
            Ok(compressor.compress(data)?)
        }
        how => compress(data, how, 1),
    }
}

/// Expands gzip, xz, zstd or plain data, told by magic; concatenated members are read one after another.
pub struct Decoder<R: Read> {
    inner: Inner<Source<R>>,
    format: Format,
    limit: u64,
    left: u64,
}

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Xz(Box<liblzma::bufread::XzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: Read> Decoder<R> {
    /// Reads from `input`; more than `limit` expanded bytes are an error, which says so when it is downcast to
    /// [`Error`] (see [`too_large`]).
    pub fn new(mut input: R, limit: u64) -> Result<Self, Error> {
        let mut head = Vec::with_capacity(Format::MAGIC_LEN);
        (&mut input).take(Format::MAGIC_LEN as u64).read_to_end(&mut head)?;
        let format = Format::detect(&head);
        let source = BufReader::with_capacity(64 << 10, Cursor::new(head).chain(input));
        let inner = match format {
            Format::None => Inner::Plain(source),
            Format::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Format::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Inner::Xz(Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream)))
            }
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Decoder { inner, format, limit, left: limit })
    }

    /// The format found.
    pub fn format(&self) -> Format {
        self.format
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // Past the bound one byte more is asked for: only then is it known whether there is more.
        let want = usize::try_from(self.left.max(1)).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..want];
        let n = match &mut self.inner {
            Inner::Plain(r) => r.read(buf)?,
            Inner::Gzip(r) => r.read(buf)?,
            Inner::Xz(r) => r.read(buf)?,
            Inner::Zstd(r) => r.read(buf)?,
        };
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(Error::TooLarge { limit: self.limit })),
        }
        Ok(n)
    }
}

/// Whether a read failed because a [`Decoder`] met its bound.
pub fn too_large(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|e| e.downcast_ref::<Error>())
        .is_some_and(|e| matches!(e, Error::TooLarge { .. }))
}

/// What the first stream, member or frame in `data` expands to, at most `limit` bytes; what lies behind it is not looked
/// at. What was expanded before damage is given, too.
pub fn decompress_first(data: &[u8], limit: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut read = |from: &mut dyn Read| {
        // What was read before an error stays.
        let _ = from.take(limit).read_to_end(&mut out);
    };
    match Format::detect(data) {
        Format::None => read(&mut &data[..]),
        Format::Gzip => read(&mut flate2::bufread::GzDecoder::new(data)),
        Format::Xz => {
            if let Ok(stream) = Stream::new_stream_decoder(XZ_MEMORY, 0) {
                read(&mut liblzma::bufread::XzDecoder::new_stream(data, stream));
            }
        }
        Format::Zstd => {
            if let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(data) {
                let mut decoder = decoder.single_frame();
                if decoder.window_log_max(ZSTD_WINDOW_LOG).is_ok() {
                    read(&mut decoder);
                }
            }
        }
    }
    out
}

/// Expands `data` in memory, told by magic; plain data is copied. More than `limit` bytes are an error.
pub fn decompress(data: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match Decoder::new(data, limit)?.read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(e) => Err(match e.downcast::<Error>() {
            Ok(inner) => inner,
            Err(e) => Error::Io(e),
        }),
    }
}
