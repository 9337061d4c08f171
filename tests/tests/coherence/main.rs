//! Do guests and the host see the same files, by the rules of each cache mode?
#![cfg(test)]

mod directories;
mod kernels;
mod linearizable;
mod privileged_attributes;
mod races;
mod rules;
mod submounts;
