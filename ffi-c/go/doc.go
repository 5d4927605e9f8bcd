// Package iicp is a client, a serving node and an embedded directory of the IICP mesh, which routes AI tasks by intent.
//
// It is a thin layer over the C interface of iicp-core: one engine for every language. The engine starts with the first
// [Client], [Node] or [Directory] of the process.
//
// Every call that takes a context ends when the context does: the operation is cancelled, at the far end too, and the
// call returns when that is done. So nothing leaks and nothing arrives late. Errors are of type [*Error] and match the
// codes of this package, such as [ErrTimeout], and the context's own error.
//
// The library is linked as a shared one that pkg-config finds under the name iicp; with the build tag iicp_static as an
// archive. The build tag iicpdebug runs the garbage collector around every call into the library.
package iicp
