# Runs the functions of the guide's Rails app, with the connection that an app would have.

require "active_record"

url = ENV.fetch("DATABASE_URL")
if url.start_with?("sqlite:")
  ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: url.delete_prefix("sqlite://"))
else
  ActiveRecord::Base.establish_connection(url.sub("postgres:", "postgresql:"))
end

class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true
end

require_relative "app/models/cloudflare_image"
require_relative "uploads"

command, *arguments = ARGV
if command == "register"
  register_image(*arguments)
else
  puts image_status(*arguments)
end
