// A module of its own for what the examples need beyond the library.
module github.com/attestedtls/atls/examples

go 1.26.0

replace github.com/attestedtls/atls => ../
