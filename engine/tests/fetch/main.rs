//! Tests of the downloader against a server with scripted faults, a proxy, TLS, and Python's server.
//! Knows `mosbuild_engine::fetch` alone.

mod child;
mod desk;
mod faults;
mod once;
mod peers;
mod places;
mod server;
