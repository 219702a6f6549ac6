//! Codecs over bytes. Knows no file system and no engine.
