//! Does the DAX window map files correctly, for every VMM and against hostile guests?
#![cfg(test)]

mod hostile;
mod mapping;
mod memory;
mod offers;
mod vmm;
