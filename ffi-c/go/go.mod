module iicp.network/go/iicp

go 1.24
