package iicp

// The same calls with options as text: the case table has some that Go's types cannot express.
var NewClientJSON = newClient

var (
	DiscoverJSON = (*Client).discover
	SubmitJSON   = (*Client).submit
	ChatJSON     = (*Client).chat
)
