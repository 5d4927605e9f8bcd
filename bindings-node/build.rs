//! Link settings of the addon.

#![allow(clippy::print_stdout)]

fn main() {
    napi_build::setup();
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // A worker's end unloads its addons, but our threads serve the other environments of the process.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
