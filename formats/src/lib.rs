//! Codecs over bytes: Alpine packages, cpio, compression, where two files differ, ELF, flists, what git prints, kernel modules and their indexes, kernel
//! configuration and images, patches, tarballs, zip archives, the list of linux-firmware.
//! Knows no file system beyond `Read` and `Write`, no cache, no build graph and no terminal.
//! Every parser takes hostile input: it returns an error or a bounded value, and never panics.

#![forbid(unsafe_code)]

pub mod apk;
pub mod authenticode;
pub mod bzimage;
pub mod closure;
pub mod compress;
pub mod depmod;
pub mod difference;
pub mod elf;
pub mod expand;
pub mod flist;
pub mod git;
pub mod initramfs;
pub mod kbuild;
pub mod kconfig;
pub mod kernel_image;
mod modindex;
pub mod modinfo;
pub mod newc;
pub mod patch;
pub mod saved_cmd;
pub mod tarball;
pub mod uki;
pub mod whence;
pub mod zboot;
pub mod zipfile;
