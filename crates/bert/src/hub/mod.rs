//! The Hugging Face hub.

#[cfg(feature = "hub")]
mod cache;
pub(crate) mod id;
#[cfg(feature = "hub")]
mod network;
pub(crate) mod options;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod transfer;

#[cfg_attr(feature = "hub", path = "enabled.rs")]
#[cfg_attr(not(feature = "hub"), path = "disabled.rs")]
mod repo;

pub(crate) use repo::Repo;
