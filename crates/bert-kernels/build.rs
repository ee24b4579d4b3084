//! Compiles the kernels for NVIDIA GPUs, if the feature `cuda` is on: `src/cuda/*.cu` to fat binaries with code for
//! compute capabilities 8.0 and 9.0, and PTX for later ones. `NVCC` names the compiler, `nvcc` by default.

use std::path::{Path, PathBuf};
use std::process::Command;

const KERNELS: [&str; 4] = ["activation", "attention", "layer_norm", "rows"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src/cuda");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=REAL_NVCC");
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for kernel in KERNELS {
        if let Err(problem) = compile(&nvcc, kernel, &out) {
            println!(
                "cargo::error=the feature `cuda` needs nvcc of CUDA 13 (NVCC or PATH names it): {problem}"
            );
            return;
        }
    }
}

fn compile(nvcc: &str, kernel: &str, out: &Path) -> Result<(), String> {
    let result = Command::new(nvcc)
        .args(["--fatbin", "-O3", "-std=c++17", "--compress-mode=size"])
        .args(["-gencode", "arch=compute_80,code=[sm_80,compute_80]"])
        .args(["-gencode", "arch=compute_90,code=[sm_90,compute_90]"])
        .arg(format!("src/cuda/{kernel}.cu"))
        .arg("-o")
        .arg(out.join(format!("{kernel}.fatbin")))
        .output()
        .map_err(|error| format!("{nvcc} does not start: {error}"))?;
    if result.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&result.stderr).replace('\n', " | ");
    Err(format!("{nvcc} fails on src/cuda/{kernel}.cu: {text}"))
}
