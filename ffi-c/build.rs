//! How the shared library presents itself to the loader.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // The number is that of IICP_ABI_VERSION minus one; programs keep working until it changes.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libiicp.so.0");
        // The engine's threads run code of the library, so it must stay when a host unloads what linked it.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
