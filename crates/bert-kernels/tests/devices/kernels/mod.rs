//! What kernels compute, on every device that has them.

mod activation;
mod attention;
mod layer_norm;
mod layouts;
mod linear;
mod rows;
