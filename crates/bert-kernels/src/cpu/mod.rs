//! Kernels for the CPU in F32.
//!
//! A file per operation takes tensors apart ([`slices`]) and computes on slices; it gives `None`
//! where the operation's definition has to be used instead.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod gemm;
pub(crate) mod layer_norm;
pub(crate) mod linear;
mod math;
mod rows;
mod scratch;
mod simd;
mod slices;
pub(crate) mod team;
#[cfg(test)]
mod testing;
