use strict;
use warnings;
use HTTP::Daemon;

my $d = HTTP::Daemon->new(LocalAddr => '0.0.0.0', LocalPort => $ENV{PORT}, ReuseAddr => 1) or die "listen: $@";
while (my $c = $d->accept) {
    while ($c->get_request) {
        $c->send_response(HTTP::Response->new(200, 'OK', ['Content-Type' => 'text/plain'], "hello from perl\n"));
    }
}
